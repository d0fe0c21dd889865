def handler(context, event)
  context.logger.debug('d')
  context.logger.info('i', number: 1, text: 'grüß')
  context.logger.warn('w')
  context.logger.error('e')
  'logged'
end
