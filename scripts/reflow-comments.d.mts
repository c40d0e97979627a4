export function reflowComments(text: string, width: number): string;
