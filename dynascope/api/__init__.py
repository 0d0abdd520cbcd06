"""The front doors: one file and one public function each; they wire rooms together and decide nothing."""
