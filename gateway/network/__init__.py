"""The ward's side of the network, as root sets it up: links, addresses, routes, and what the two servers read.

It knows no trust and no flow: what may pass is the tables' business.
"""
