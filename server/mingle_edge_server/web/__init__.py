"""HTTP: endpoints, who may ask, how long a client may take, the page, and the process that listens."""
