"""A discrete-event model of machines that are described and not here."""
