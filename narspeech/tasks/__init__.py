"""What differs between speech recognition, text translation and speech translation, so that one recipe serves all."""
