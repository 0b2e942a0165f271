"""Regions of memory whose page kind is chosen, address spaces of any shape, and what can be seen of them.

`region` maps memory and files (`Region`, `Files`, `why_not`, `require_budget`) and reads it back; `calls` are
system calls over ranges, compiled. `layouts` and `filled_space` make large address spaces from little memory.
`address_space` finds the page-table entries of a process, `walkers` walk them through the kernel, and
`inspect.walk`, which is `ktask.walk`, returns what a process has in memory.
"""
