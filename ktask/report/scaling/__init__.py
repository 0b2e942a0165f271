"""Laws, larger machines and published results, beside what was measured."""
