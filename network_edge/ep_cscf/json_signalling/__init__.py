"""JSON over WebSocket: the second signalling of W2 (TS 23.228 annex U leaves it open); see docs/signalling-json.md."""
