pytest_plugins = ["perfsuite.plugin"]
