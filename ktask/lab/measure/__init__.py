"""The one measuring core: a case in this process, in interleaved rounds, checked after each repetition.

`rounds` has the three calls that everybody uses (`interleave`, `prepared`, `repeat`), `cell` the measurement
against a serial baseline (`measure`, `measure_case`), `measurement` its result and `Protocol`, `stats`
medians and ratios with intervals (`estimate`, `ratio`), `flags` and `rows` what records say of a repetition.
"""
