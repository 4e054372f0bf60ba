"""
How fast this package is, beside everything that people use in its place: ``python -m benchmarks``.

One upstream, one contender at a time, one load generator, all on 127.0.0.1. ``harness`` runs them,
``contenders`` says who they are, ``loads`` what they are asked, ``report`` what came out; ``probes``
measure what a load generator cannot see. docs/performance.md tells how to read the figures.
"""
