"""Sockets and IPsec for `imskit.ims`."""
