"""An emulated modem: AT commands of TS 27.007 on a pseudo-terminal, with a simulated SIM card behind them."""
