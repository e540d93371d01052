"""The WebRTC Web Proxy Function of TR 23.701 clause 5.7: page access and log-in with the card."""
