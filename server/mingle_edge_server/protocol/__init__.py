"""The Open Inference Protocol v2 over HTTP: what is asked, what is answered, and how both are written."""
