"""Flow from the picture to the answer: routes that are cut, image rows given back to earlier layers, objects taken out."""
