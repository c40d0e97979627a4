{
  # node-gyp's door to the one build: CMake does the work (CMakeLists.txt), in out/, never in build/, which node-gyp clears.
  "targets": [
    {
      "target_name": "memformer",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/memformer.node"],
          "action": ["node", "scripts/build-native.mjs", "--out", "<(PRODUCT_DIR)"]
        }
      ]
    }
  ]
}
