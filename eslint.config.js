import js from '@eslint/js'
import globals from 'globals'

export default [
  { ignores: ['.host/', 'node_modules/'] },
  js.configs.recommended,
  {
    // The lanes' and the swap's extensions run in the page that ComfyUI's frontend is.
    files: ['web/js/**/*.js'],
    languageOptions: { globals: { ...globals.browser, LiteGraph: 'readonly' } },
    rules: { eqeqeq: ['error', 'always', { null: 'ignore' }], 'no-var': 'error', 'prefer-const': 'error' }
  },
  { files: ['tests/**/*.js', '*.js'], languageOptions: { globals: globals.node } }
]
