"""IPsec ESP as the Gm interface uses it (TS 33.203 annexes H, I and M): associations, packets, two back ends.

It knows nothing of SIP.  ``algorithms`` and ``association`` are what an agreement is made of; ``io.backend`` is the
interface that carries one out, ``io.userspace`` (ESP in this process) and ``io.kernel`` (Linux XFRM) implement it.
"""
