declare module "catalogue:*" {
  const messages: Record<string, unknown>;
  export default messages;
}
