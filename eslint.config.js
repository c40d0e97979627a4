import eslint from "typescript-eslint";

export default eslint.config(
  {
    ignores: [
      ".*/",
      "dist/",
      "docs/api/",
      "out/",
      "build/",
      "node_modules/",
      "coverage/",
      "runs/",
      "variants/",
      "prebuilds/",
    ],
  },
  {
    files: ["**/*.ts"],
    extends: [eslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": ["error", { ignoreRestSiblings: true }],
      "@typescript-eslint/promise-function-async": ["error", { checkArrowFunctions: false }],
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      // An async function without await keeps a contract: it rejects where it would otherwise throw.
      "@typescript-eslint/require-await": "off",
      eqeqeq: "error",
      "no-console": "error",
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  {
    files: ["test/**/*.ts", "native/**/*.spec.ts", "bench/**/*.ts", "examples/**/*.ts"],
    rules: {
      // chai says `expect(x).to.be.true`, and tests feed what types forbid.
      "@typescript-eslint/no-unused-expressions": "off",
      "@typescript-eslint/only-throw-error": "off",
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
      "@typescript-eslint/restrict-template-expressions": "off",
      "no-console": "off",
    },
  },
  {
    files: ["scripts/**/*.mjs", "eslint.config.js", "lib/service/page/*.js"],
    extends: [eslint.configs.base],
    rules: { eqeqeq: "error", "no-var": "error", "prefer-const": "error", "no-unused-vars": "error" },
  },
);
