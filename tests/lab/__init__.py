"""Real engines, images, sites and tunnels for the tests and the demo.

Everything here is standard library only, so that a bare machine can run the demo, and everything
it makes is removed again. It must not import the product.
"""
