// The types of our nodes that decode, and of the saver.
export const SAVER = 'SaveVideoStreaming'
export const OUR_TYPES = [
  'AsyncVAEDecodeVideo',
  'AsyncVAEDecodeToVideo',
  'AsyncVAEDecodeTiled',
  'AsyncVAEDecodeTiledToVideo',
  SAVER
]
