"""The agent's access to the smart card: identities and AKA from the ISIM or USIM (S7-UICC)."""
