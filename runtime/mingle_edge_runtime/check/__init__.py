"""Is a bundle intact, and does this machine compute it right?"""
