"""The UE DNS proxy of TR 23.701 clause 5.7: the operator's STUN/TURN names lead to this device."""
