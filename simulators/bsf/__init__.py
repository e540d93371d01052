"""A simulated bootstrapping server function (TS 33.220): Ub towards terminals, Zn towards servers, Zh to the HSS."""
