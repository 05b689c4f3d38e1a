"""The demonstration: four image tasks and a tiny CLIP made on the spot, then every stage of the line on them."""
