"""An ``org.bluez`` service for the bench, over a bumble host, so that bleak's own BlueZ backend runs unmodified."""
