"""Laws of scaling, fitted to measured curves, and what they predict for more threads."""
