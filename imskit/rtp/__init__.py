"""RTP and RTCP (RFC 3550), the AMR payload formats (RFC 4867) and telephone events (RFC 4733).

Everything here is bytes in, values out, or a small machine that is told the time: no sockets, no clock.  Every
parser raises ``imskit.rtp.errors.RtpError`` and nothing else; the right answer to such a packet is to drop it.
"""
