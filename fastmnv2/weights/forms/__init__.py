"""One module for each form that weights come in, imported when a file of that form is read."""
