"""Messages to people and programs about what needs a look: by e-mail and by webhook.

events        what can happen, and its words
watch         what has begun or ended since the last look at how everything stands
queue         events and their deliveries, on the disk
schedule      when a delivery is tried again, and when it is given up
secrets       passwords, secrets and addresses from files
mail          e-mail through a mail server
webhook       signed JSON to an address
destinations  where messages go, as the configuration says
sending       deliveries, one thread for each destination
service       the process `exporter notify run`, and the end of a backfill

Nothing here is imported where `notify` names no destination.
"""
