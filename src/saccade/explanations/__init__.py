"""Why a network answers what it answers: heat maps over the image, and what its layers respond to."""
