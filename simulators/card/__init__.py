"""A simulated UICC with USIM and ISIM, and a private reader daemon to put it into."""
