"""The pictures of the lesson in examples/lesson/."""
