"""Studies: one question of a notebook each, answered by a table of measurements.

`ways.ways` compares methods, `zeroing.stores` kinds of stores by size, `freeing.chunk_sizes` and `zone_lock`
what limits freeing, `page_walks.walk_rates` walks by layout, `fault_mutexes.pairs` which huge pages exclude
one another. `sampling` is what they share.
"""
