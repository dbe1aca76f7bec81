// The types of our nodes that decode, of those that decode elsewhere, and of the savers.
export const SAVER = 'SaveVideoStreaming'
export const SAVER_ELSEWHERE = 'AsyncSaveVideoElsewhere'
export const SAVERS = [SAVER, SAVER_ELSEWHERE]
export const ELSEWHERE = [SAVER_ELSEWHERE, 'AsyncDecodeElsewhere', 'AsyncCollectVideo']
export const OUR_TYPES = [
  'AsyncVAEDecodeVideo',
  'AsyncVAEDecodeToVideo',
  'AsyncVAEDecodeTiled',
  'AsyncVAEDecodeTiledToVideo',
  SAVER,
  ...ELSEWHERE
]
