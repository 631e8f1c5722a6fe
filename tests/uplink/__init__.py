"""The uplink: against values, a real Mosquitto and hostile brokers."""
