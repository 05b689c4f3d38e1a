"""What a bundle is, for whoever finds it: a model card in the form of the Hugging Face hub."""
