"""PS3.8 and PS3.7 on one socket.

pdu              PDUs as bytes and values
wire             PDUs read within deadlines
command          command sets
negotiation      what a proposal is answered
data_set         what takes a data set while it arrives
connecting       connections that we open
scu              associations that we request
peer_pseudonyms  peers as they are named in logs
"""
