"""A UICC in software, from the card's side of the contacts: the simulated card, the emulated modem's, a lab's own."""
