"""eP-CSCF of TS 24.371 annex A: WebRTC clients come in over secure WebSocket and reach IMS over Mw."""
