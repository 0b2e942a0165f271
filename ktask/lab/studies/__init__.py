"""Studies of one question each, for the notebooks: freeing, zeroing, page walks, fault mutexes."""
