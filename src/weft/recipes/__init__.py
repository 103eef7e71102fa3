"""What is to be merged: the schema, how it is loaded, and what it says about each tensor."""
