"""Session descriptions (RFC 8866) and the interworking between the page's profile and the IMS profile.

``description`` is the lossless tree, ``attributes`` and ``codec`` give its lines their meaning on demand, ``profile``
holds what each side may say, ``ims_side`` and ``web_side`` make and judge offers and answers of one profile,
``interworking`` joins the two.  Everything raises ``imskit.sdp.errors.SdpError`` and nothing else.
"""
