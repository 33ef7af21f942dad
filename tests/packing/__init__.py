"""Random networks of the built-in spaces, trained by real children that share little memory: who runs out of it?"""
