"""How long one act of wardgate-policy may take, for both ends of its socket: who asks waits as long as it may work.

Standard library only, since both sides read it. It waits for nothing itself.
"""

from __future__ import annotations

REQUEST_S = 10.0  # to send a request; a peer that dribbles is cut off
LOCK_S = 30.0  # for another act (root's, on the console) to end
NFT_S = 60.0  # one child nft: 10,000 devices commit in 0.5 s; a Pi is ten times slower
NETWORK_S = 60.0  # the ward's network follows: 10,000 devices' routes on a Pi
# What an act may honestly take before it is answered: the lock, the load, then the network; and as much again as a request
# before it may use to arrive. Whoever gives up earlier tells a failure that did not happen.
ANSWER_S = LOCK_S + NFT_S + NETWORK_S + REQUEST_S
