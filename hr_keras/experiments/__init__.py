"""The paper's experiments: protocols, training, run folders, and tables and figures of them."""
