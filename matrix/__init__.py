"""
The conformance suite against many proxies: ``python -m matrix``.

``peers`` tells how each is started, ``running`` starts one and runs the suite against it, ``table``
puts the results side by side, and ``notes`` says why something is as it is. Not part of the package.
"""
