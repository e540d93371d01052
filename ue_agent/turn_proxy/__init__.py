"""The UE TURN proxy of TR 23.701 Solution 7: the operator's STUN/TURN server, on the device itself."""
