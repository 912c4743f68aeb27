"""What makes received bytes an instance, whatever the way in.

walk               tags and lengths of a data set, while it arrives
transfer_syntaxes  storage classes, and which transfer syntax is taken
file_meta          group 0002: written, and read at rest and while it arrives
identity           our implementation identity
store_status       what a sender is answered: one table
reception          judged, and kept where its status says
"""
