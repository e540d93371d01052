"""eIMS-AGW: the media gateway between browsers and IMS (TS 23.228 annex U), steered by the NG protocol."""
