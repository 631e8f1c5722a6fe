"""What leaves: readings, alarms and decisions over MQTT 5, from the durable outbox to the hospital's broker.

``messages`` (pure) is the wire format, ``lanes`` (pure) decides what is sent next and who is to blame, ``link`` owns
aiomqtt, ``sender`` joins them. From the network only acknowledgements come in, never a command.
"""
