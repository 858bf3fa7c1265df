"""What a model does inside, in numbers: gradient flow, connectivity, units and gates; and the page that shows it."""
